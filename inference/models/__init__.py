"""The models: what each one is, where its weights come from, and what runs it."""
