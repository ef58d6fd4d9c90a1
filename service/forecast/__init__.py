"""Forecasters: their manifest, task, inputs, routes, and the interface of the `nixtla` client."""
