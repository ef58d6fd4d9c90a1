"""The servers that Carry is measured beside, each written in the manner of its documentation."""
