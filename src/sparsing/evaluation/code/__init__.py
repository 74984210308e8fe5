"""Generated programs: the sandbox that runs them and the pass@k metric."""
