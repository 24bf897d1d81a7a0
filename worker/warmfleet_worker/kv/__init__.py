"""What an engine's KV cache holds, and how it is handed over when the engine goes."""
