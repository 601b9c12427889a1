"""What the default stages of a run do: cut, train, export."""
