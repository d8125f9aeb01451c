"""What training loops wrap around a user's module, and how the meta stage looks inside it."""
