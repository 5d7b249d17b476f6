"""Where rows come from, and when."""
