"""Measurement of memory, time and FLOPs, by hooks and dispatch modes, without support in models or layers."""
