"""What only this report's notebooks need; no other part imports it."""
