"""Work on more than one process or machine: sweeps over models, texts, rules and tasks."""
