"""One task, four cognitive architectures: take a contact's name, email and address from an article.

`graphs` has the architectures, `prompts` their words, `formats` the languages of their answers, `scorer`
the grade. Nothing is imported here: the words and formats are also used where LangGraph is not installed.
"""
