raise RuntimeError("the application cannot be imported")
