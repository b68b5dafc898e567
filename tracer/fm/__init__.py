"""FM calls: caught in the OpenAI client, asked for more where the engine knows more, read, and written as decodes."""
