"""Planning: the operator table, its constraints and the plan of a graph; no statistics and no scales here."""
