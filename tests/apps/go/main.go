// A server and a client of net/http and grpc-go. The server logs its port. The client checks all outcomes, and ends
// with status 0 if they are right.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	encoding.RegisterCodec(raw{})
	var err error
	switch os.Args[1] {
	case "grpc-server":
		err = serveGRPC()
	case "grpc-client":
		err = callGRPC(os.Args[2])
	case "http-server":
		err = serveHTTP()
	case "http-client":
		err = callHTTP("http://" + os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// raw is a codec for messages of any bytes.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = bytes.Clone(data)
	return nil
}

func listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
	}
	return listener, err
}

func serveGRPC() error {
	listener, err := listen()
	if err != nil {
		return err
	}
	const max = 64 << 20
	server := grpc.NewServer(grpc.UnknownServiceHandler(answer), grpc.MaxRecvMsgSize(max), grpc.MaxSendMsgSize(max))
	return server.Serve(listener)
}

// began and ended count the calls that wait until their caller ends them.
var began, ended atomic.Int32

// answer serves all methods. grpc-go sends the head of an answer with its first message.
func answer(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	stream.SetTrailer(metadata.Pairs("x-sum", "7"))
	switch method {
	case "/test.Calls/Wait":
		began.Add(1)
		<-stream.Context().Done()
		ended.Add(1)
		return stream.Context().Err()
	case "/test.Calls/Counts":
		text := []byte(fmt.Sprint(began.Load(), ended.Load()))
		return stream.SendMsg(&text)
	case "/test.Calls/Fail":
		return status.Error(codes.FailedPrecondition, "not now: ä %")
	}
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func callGRPC(address string) error {
	const max = 64 << 20
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(max), grpc.MaxCallSendMsgSize(max)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	for _, check := range []func(context.Context, *grpc.ClientConn) error{unary, turns, fails, ends} {
		if err := check(ctx, connection); err != nil {
			return err
		}
	}
	return nil
}

func unary(ctx context.Context, connection *grpc.ClientConn) error {
	for _, length := range []int{0, 1, 9_000, 4 << 20} {
		message, reply := bytes.Repeat([]byte("a"), length), []byte(nil)
		var trailer metadata.MD
		err := connection.Invoke(ctx, "/test.Calls/Echo", &message, &reply, grpc.Trailer(&trailer))
		if err != nil || !bytes.Equal(message, reply) || fmt.Sprint(trailer["x-sum"]) != "[7]" {
			return fmt.Errorf("unary of %d: %v, %d, %v", length, err, len(reply), trailer)
		}
	}
	return nil
}

// turns sends each message after the answer to the one before. It waits before the first message, so that the call begins
// without one.
func turns(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Calls/Echo")
	if err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	for turn := range 50 {
		message, reply := []byte(fmt.Sprint(turn)), []byte(nil)
		if err := stream.SendMsg(&message); err != nil {
			return fmt.Errorf("turn %d: %w", turn, err)
		}
		if err := stream.RecvMsg(&reply); err != nil || !bytes.Equal(message, reply) {
			return fmt.Errorf("turn %d: %v %q", turn, err, reply)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var reply []byte
	if err := stream.RecvMsg(&reply); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the end of the turns: %v", err)
	}
	return nil
}

func fails(ctx context.Context, connection *grpc.ClientConn) error {
	var message, reply []byte
	err := connection.Invoke(ctx, "/test.Calls/Fail", &message, &reply)
	if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "not now: ä %" {
		return fmt.Errorf("fail: %v", err)
	}
	return nil
}

// ends ends one call by its deadline and one by a cancel, and waits until the server knows of both.
func ends(ctx context.Context, connection *grpc.ClientConn) error {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var message, reply []byte
	err := connection.Invoke(short, "/test.Calls/Wait", &message, &reply)
	if status.Code(err) != codes.DeadlineExceeded {
		return fmt.Errorf("deadline: %v", err)
	}
	cancelled, cancelNow := context.WithCancel(ctx)
	defer cancelNow()
	stream, err := connection.NewStream(cancelled, &grpc.StreamDesc{ClientStreams: true}, "/test.Calls/Wait")
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&message); err != nil {
		return err
	}
	if err := counts(ctx, connection, "2 1"); err != nil {
		return err
	}
	cancelNow()
	if err := stream.RecvMsg(&reply); status.Code(err) != codes.Canceled {
		return fmt.Errorf("cancel: %v", err)
	}
	return counts(ctx, connection, "2 2")
}

// counts waits until the server has the expected numbers of calls that began and ended.
func counts(ctx context.Context, connection *grpc.ClientConn, expected string) error {
	var message, reply []byte
	for ctx.Err() == nil {
		if err := connection.Invoke(ctx, "/test.Calls/Counts", &message, &reply); err != nil {
			return err
		}
		if string(reply) == expected {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("calls that began and ended: %s, expected %s", reply, expected)
}

func serveHTTP() error {
	listener, err := listen()
	if err != nil {
		return err
	}
	next := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/events", func(writer http.ResponseWriter, request *http.Request) {
		writer.Header().Set("Content-Type", "text/event-stream")
		for number := 1; number <= 3; number++ {
			fmt.Fprintf(writer, "data: %d\n\n", number)
			writer.(http.Flusher).Flush()
			select {
			case <-next:
			case <-request.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/next", func(http.ResponseWriter, *http.Request) { next <- struct{}{} })
	mux.HandleFunc("/trailers", func(writer http.ResponseWriter, request *http.Request) {
		writer.Header().Set("Trailer", "X-Length, X-Came")
		length, _ := io.Copy(writer, request.Body)
		writer.Header().Set("X-Length", fmt.Sprint(length))
		writer.Header().Set("X-Came", request.Trailer.Get("X-Sent"))
	})
	return http.Serve(listener, mux)
}

func callHTTP(url string) error {
	if err := events(url); err != nil {
		return err
	}
	return trailers(url)
}

// events asks for each event after it has read the one before.
func events(url string) error {
	response, err := http.Get(url + "/events")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for number := 1; number <= 3; number++ {
		if !lines.Scan() || lines.Text() != fmt.Sprint("data: ", number) || !lines.Scan() {
			return fmt.Errorf("event %d: %v %q", number, lines.Err(), lines.Text())
		}
		asked, err := http.Get(url + "/next")
		if err != nil || asked.StatusCode != http.StatusOK {
			return fmt.Errorf("event %d: %v %v", number, err, asked)
		}
		asked.Body.Close()
	}
	if lines.Scan() || lines.Err() != nil {
		return fmt.Errorf("the end of the events: %v %q", lines.Err(), lines.Text())
	}
	return nil
}

// trailers sends one with the request, and reads those of the answer.
func trailers(url string) error {
	body := struct{ io.Reader }{strings.NewReader("some text")}
	request, err := http.NewRequest(http.MethodPost, url+"/trailers", body)
	if err != nil {
		return err
	}
	request.Trailer = http.Header{"X-Sent": {"1"}}
	request.Header.Set("TE", "trailers")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	length, came := response.Trailer.Get("X-Length"), response.Trailer.Get("X-Came")
	if err != nil || string(text) != "some text" || length != "9" || came != "1" {
		return fmt.Errorf("trailers: %v %q %v", err, text, response.Trailer)
	}
	return nil
}
