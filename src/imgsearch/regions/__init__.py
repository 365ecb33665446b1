"""A photo → boxes worth embedding, and what stands in them."""
