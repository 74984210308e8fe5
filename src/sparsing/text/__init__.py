"""Text in, windows of token ids out: `reading` streams documents, `corpus` tokenizes and cuts them into windows."""
