"""Pushes a good morning to the devices that it is given."""

import os
import sys

import grpc

from imaccess.v1 import link_pb2, push_pb2, push_pb2_grpc

address = os.environ.get("IMACCESS_PUSH", "http://127.0.0.1:8100").removeprefix("http://")
request = push_pb2.PushDevicesRequest(business=3, app="demo", devices=sys.argv[1:], payload=b"good morning")
with grpc.insecure_channel(address) as channel:
    answer = push_pb2_grpc.PushStub(channel).PushDevices(request)
for device, outcome in zip(request.devices, answer.outcomes):
    print(f"{device}: {link_pb2.Outcome.Name(outcome)}")
