"""What tests share: tiny networks, pictures, simulators."""
