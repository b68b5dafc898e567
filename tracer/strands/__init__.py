"""Strands: what one step did one after another and what side by side, through threads and asyncio tasks."""
