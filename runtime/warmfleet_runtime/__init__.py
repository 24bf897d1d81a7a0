"""What every long-running part shares: the clock."""
