"""The bundled FM: what it is trained on, how, and how good it is.

Plain Python: `values`, `phrases`, `articles` (the task), `dialogues` (training conversations), `chat` (how a
conversation becomes text). With torch, tokenizers and transformers: `tokenizer`, `model`, `train`, `grading`,
`evaluate`. `models/` holds the trained weights, MODEL_CARD.md what they can do.
"""
