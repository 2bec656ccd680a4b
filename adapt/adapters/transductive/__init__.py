"""Methods that classify all queries together: the logits of a query depend on the other queries."""
