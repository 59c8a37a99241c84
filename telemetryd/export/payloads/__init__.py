"""Payloads: what each format holds, and its canonical bytes."""
