"""What the gateway's process and the workers share: frames, the shared page, programs."""
