"""Why a model says what it says: attention, relevance, gradients, and whether a map is true."""
