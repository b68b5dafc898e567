"""Canvas components: waterfall, token strip, keys. Text from outside is drawn with fillText and textContent only."""
