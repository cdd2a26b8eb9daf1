"""nano: a shipped model of 1.3 million parameters that works arithmetic out by functional prompts."""
