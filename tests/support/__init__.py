"""What tests share: tiny networks, images, simulators."""
