"""The contacts desk: one agent that reads an article and decides itself which tools to call.

`graph` is the agent, `directory` and `service` the world it asks, `prompts` its words, `policy` what it
should do, `scorer` the grade. Nothing is imported here: the words and the policy are also used where
LangGraph is not installed.
"""
