"""An OpenAI-compatible stand-in that behaves towards the outside like vLLM, at the speed of a modelled GPU."""
