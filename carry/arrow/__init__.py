"""Arrow tables of any size: sources, columns, times, shards. carry/batch.py is the entrance. Knows no pandas."""
