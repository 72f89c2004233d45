"""What a run uses: images, models, study and sizes; and the machine: device, memory, files, progress."""
