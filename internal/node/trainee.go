package node

import (
	"context"
	"errors"

	"weft/finetune/train"
	"weft/runtime/device"
	"weft/runtime/model"
)

// Trainee is a model on whose weights a training job runs: in a process of its own, or in that of a server.
type Trainee struct {
	Device device.Device
	Model  model.Model

	node *Node        // the server, or nil
	stop func() error // ends serving; nil without a server
}

// OpenTrainee loads the weights of in for a job that runs alone, within c.Memory bytes. The caller closes the Trainee.
func OpenTrainee(in *train.Input, c ModelConfig) (t *Trainee, err error) {
	c.Activations = "float" // gradients are those of the float32 forward pass
	if in.Config.Init != "random" {
		if err := c.checkWeights(in.Files.Model); err != nil {
			return nil, err
		}
	}
	t = &Trainee{}
	if t.Device, err = OpenDevice(c.DeviceConfig); err != nil {
		return nil, err
	}
	t.Model, err = in.LoadModel(device.Limited{Device: t.Device, Bytes: int64(c.Memory)}, c.Load4Bit.Wrap)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// OpenServedTrainee opens a server that answers until Close; jobs run on the weights that it serves. When ctx ends, the
// server drains at once: new requests get a 503, also while a job still makes a step. The caller closes the Trainee.
func OpenServedTrainee(ctx context.Context, c Config) (*Trainee, error) {
	n, err := Open(ctx, c)
	if err != nil {
		return nil, err
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(serving) }()
	context.AfterFunc(ctx, func() { n.server.Drain(serving) })
	return &Trainee{Device: n.Model.Device, Model: n.Model.Model, node: n, stop: func() error {
		cancel()
		return <-ended
	}}, nil
}

// Run runs j, as a background job of the engine where there is a server: requests come first.
func (t *Trainee) Run(ctx context.Context, j *train.Job) (*train.Result, error) {
	if t.node != nil {
		background, err := t.node.Model.Engine.Background(ctx, "training")
		if err != nil {
			return nil, err
		}
		defer background.Close()
		background.Enter()
		defer background.Leave()
		j.Yield = background.Yield
	}
	return j.Run(ctx)
}

// Close ends the server, if any, and frees the model and the device.
func (t *Trainee) Close() error {
	if t.node != nil {
		return errors.Join(t.stop(), t.node.Close())
	}
	var errs []error
	if t.Model != nil {
		errs = append(errs, t.Model.Close())
	}
	return errors.Join(append(errs, t.Device.Close())...)
}
