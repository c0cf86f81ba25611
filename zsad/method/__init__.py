"""The paper's six steps as pure functions: no I/O, no Ray, no model package."""
