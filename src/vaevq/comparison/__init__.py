"""Quantizers under one budget: rows of settings × seeds, trained once each, and a table that says what can be said."""

from vaevq.comparison.plan import Plan, read_plan
from vaevq.comparison.sweep import Sweep, default_folder

__all__ = ["Plan", "Sweep", "default_folder", "read_plan"]
