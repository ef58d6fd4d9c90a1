"""From a file to series: dialects, columns, layouts, ids, and the report of what was read. carry/files.py is the
entrance."""
