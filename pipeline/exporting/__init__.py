"""A trained network as files for others: weights, traced graphs, a card, the Hugging Face Hub."""
