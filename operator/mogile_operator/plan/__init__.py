"""Pure decisions: what was observed in, ordered actions out. No I/O, no clock, no randomness; time arrives as a value."""
