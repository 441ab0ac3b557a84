"""`make faults`: what breaks, what is damaged, what is sent by somebody who means ill."""
