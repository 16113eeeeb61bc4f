"""Runners: who calls the corridor's functions, where and when. The parts do not depend on it."""
