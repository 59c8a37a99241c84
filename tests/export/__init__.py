"""Tests of the export part: payload, timing of runs, manager and sinks."""
