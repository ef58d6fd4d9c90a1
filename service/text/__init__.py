"""Text models: their manifest, tokenizer, sampling, task, routes, and the interface of the `openai` client."""
