"""What is quantized: the operator table, its constraints, and the plan made of them; no numbers of tensors."""
