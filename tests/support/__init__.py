"""What the tests share: servers, ways to break them, workers as processes, a model, comparisons."""
