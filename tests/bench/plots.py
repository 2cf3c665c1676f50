def draw(results, directory): return []
