"""What mPlane's exporter does with each file: rrdfetch FOLDER SINCE UNTIL PASSES."""
import os
import sys

import rrdtool

folder, since, until, passes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
total = 0
for _ in range(passes):
    for name in os.listdir(folder):
        _, _, rows = rrdtool.fetch(os.path.join(folder, name), "AVERAGE", "--resolution", "300", "-s", since, "-e", until)
        total += len(rows)
print(total)
