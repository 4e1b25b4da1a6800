"""Answers over the network, in OpenAI's form, and the parts that a chat on the terminal shares with it."""
