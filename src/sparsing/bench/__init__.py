"""Speed benchmarks of feed-forward blocks and of whole models: dense engines against the sparse kernels."""
