"""A business that greets whoever writes to it."""

import asyncio

import grpc

from imaccess.v1 import business_pb2, business_pb2_grpc


class Greeter(business_pb2_grpc.BusinessServicer):
    async def Serve(self, batches, context):
        """The access layer opens a few of these and keeps them open: batches of requests and events come in, replies go out."""
        async for batch in batches:
            answer = business_pb2.FromBusiness()
            for event in batch.events:
                print(business_pb2.EventKind.Name(event.kind), event.device, flush=True)
                answer.event_ack = event.sequence  # what is acknowledged doesn't come again
            for request in batch.requests:
                text = request.payload.decode()
                answer.replies.add(id=request.id, payload=f"{text} to you too, {request.device}!".encode())
            yield answer


async def main():
    server = grpc.aio.server()
    business_pb2_grpc.add_BusinessServicer_to_server(Greeter(), server)
    server.add_insecure_port("127.0.0.1:9003")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
