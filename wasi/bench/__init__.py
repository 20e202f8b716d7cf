"""The device benchmark: a configuration and its baseline, measured in processes of their own that take turns.

The parent (`job`, `children`, `measure`) imports no torch and waits on pipes; `child` is the measuring process.
"""
