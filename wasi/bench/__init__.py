"""The device benchmark: a configuration and its baseline are measured in two subprocesses that take turns.

The parent process (`measure_job`, `children`, `measure`) imports no torch and waits on pipes; `child` is the program of
the subprocesses.
"""
