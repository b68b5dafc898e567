"""LangGraph and LangChain: their callbacks and their loop, read as spans, step keys and edges."""
