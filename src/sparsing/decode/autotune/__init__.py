"""Chooses the fastest kernel for each block and projection by short timings on this machine.

`choose` assigns the choices, `timing_cache` times the candidates and keeps their times in the user's cache folder.
"""
