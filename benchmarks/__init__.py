"""Figures for the machine they run on, as tables; nothing is asserted."""
